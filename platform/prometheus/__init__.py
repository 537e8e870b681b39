"""What Prometheus may scrape of a service: the newest values of runs, their alerts, their pulse.

`metric_names.py` says how signals are called there, `readings.py` reads the store and keeps what it
read for some seconds, `page.py` makes the page of it, `server.py` serves it to who has the token.
"""
