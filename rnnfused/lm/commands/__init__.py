"""One module per command of ``rnnfused``: ``add`` makes its subparser, which names its function."""
