"""Times a layer against ``torch.nn.RNN``: the command ``rnnfused bench``, and the base of ``make bench``.

Two calls take turns in one process (:mod:`.timing`). Several processes give the spread (:mod:`.processes`).
"""
