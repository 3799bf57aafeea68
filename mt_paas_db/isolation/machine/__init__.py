"""The state machine: what comes, step by step, of many tenants' sessions, against a dictionary of what each wrote.

The attacks try one way after another; some leaks only a sequence of ordinary steps can show. A `World` carries steps
out and checks after each that nothing has leaked; it needs no hypothesis, and a failure is printed as a script that
calls it. Only `mt_paas_db.isolation.machine.rules` and `run` import hypothesis: they draw the steps.
"""
