"""``python -m rnnfused.lm`` is the command ``rnnfused``."""

import sys

from .cli import main

sys.exit(main())
