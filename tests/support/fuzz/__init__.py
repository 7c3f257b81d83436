"""Fuzzing by structure: what each of our readers makes of a case is compared with what a plain second one makes of it.

A case is drawn by Hypothesis from what the reader's input is made of, right and wrong. The second reader is slow,
short, and written from the page that is normative, not from the code. `targets` has them all, `planted` the bugs that
each must find, `model` the daemon as a whole; ``scripts/fuzz`` runs them for as long as one likes.
"""
