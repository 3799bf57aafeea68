"""An example service: a university chatbot whose tenants are universities."""
