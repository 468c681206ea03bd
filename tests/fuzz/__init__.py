"""Random calls, right and wrong: ``calls.py`` draws them from ``values.py``; ``test_fuzz.py`` makes them."""
