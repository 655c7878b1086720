"""Records turned into something to read: pure functions, no torch.

``sections`` and ``figures`` have the figures and their names, in order. ``text`` lays them out for a terminal, ``html``
as a page, ``compare`` beside those of another run. What a run means is said in ``results.diagnosis``.
"""
