"""``python -m rnnfused.lm`` is the command ``rnnfused``, but prefer ``python -m rnnfused_command``.

For the former, Python imports the package, and with it torch, before it runs this file. Ctrl-C
during that second or two gives a traceback, which only the latter and ``rnnfused`` can prevent.
"""

import sys

from rnnfused_command import main

sys.exit(main())
