"""Mutants: deliberate breaks of the library's layers, and who finds each.

What holds an attack is named in the library's catalogue (`mt_paas_db.isolation.attack.Weakness`). Here those weaknesses
are carried out, on the server or in our code, and `table` says of each which other layers mask it.
"""
