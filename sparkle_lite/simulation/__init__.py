"""A circle of people with known good and bad peers, played against a server: what its rules are worth is seen here.

`world` is who there is and what happens, `programs` and `rows` how client programs write it, `clients` what such a
program does with it, `play` the days, `judge` and `report` what came of them.
"""
