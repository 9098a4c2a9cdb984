"""Make a database of a table: make_database.py TABLE DATABASE."""

import csv
import sqlite3
import sys

with (
    open(sys.argv[1], newline="", encoding="utf-8") as table,
    sqlite3.connect(sys.argv[2]) as database,
):
    database.execute("CREATE TABLE titles (title TEXT PRIMARY KEY, topic TEXT)")
    database.executemany("INSERT INTO titles VALUES (?, ?)", csv.reader(table, delimiter="\t"))
