"""Static files of web pages, and `page`, which puts them into one file."""
