"""What pipeline files of tests name: functions that can be imported."""

from __future__ import annotations


def clean(text):
    """Without what stands around it."""
    return text.strip()


def words(text, least=1):
    """Words of at least so many letters."""
    return [word for word in text.split() if len(word) >= least]


def is_long(value):
    """Whether there is more than one."""
    return len(value) > 1


def largest(outputs):
    """Of outputs by stage."""
    return max(str(value) for value in outputs.values())


class Holder:
    """Has a function that is found through it."""

    @staticmethod
    def same(value):
        """What it is given."""
        return value
