"""A program of csrc/cpu without torch and Python; ``programs.py`` builds it, ``test_driver.py`` says what for."""
