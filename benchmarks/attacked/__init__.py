"""The same attacks on several libraries, each in an environment of its own, with verdicts that rest on what was read.

`script` holds the attacks and `stage` what they act on and how they are judged; both know the standard library and
psycopg only. One module a library makes it a `subject.Subject`. `worker` is the process in the library's environment.
"""
