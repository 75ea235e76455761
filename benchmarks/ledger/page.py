"""The page."""


def page(rows):
    return ""
