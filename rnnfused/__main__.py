"""``python -m rnnfused`` is the command ``rnnfused``, for torchrun: ``torchrun .. -m rnnfused train ..``.

Python imports the package, and with it torch, before it runs this file. Ctrl-C during that second
or two gives a traceback, which only ``rnnfused`` and ``python -m rnnfused_command`` can prevent.
"""

import sys

from rnnfused_command import main

sys.exit(main())
