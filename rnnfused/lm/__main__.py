"""``python -m rnnfused.lm`` is the command ``rnnfused``."""

import sys

from rnnfused_command import main

sys.exit(main())
