"""The version of lwq: what rows name, and what workers must share."""

VERSION = "0.1.0"
