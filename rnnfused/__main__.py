"""``python -m rnnfused`` is the command ``rnnfused``, for torchrun: ``torchrun .. -m rnnfused train ..``."""

import sys

from rnnfused_command import main

sys.exit(main())
