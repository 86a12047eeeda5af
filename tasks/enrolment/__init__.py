"""Enrolment of a product class."""
