"""English words that say little by themselves."""

from __future__ import annotations

_WORDS = """
a about according after again all also although am an and any are as at be because been before
being between both but by can could did do does doing down during each every few for from further
get got had has have having he her here hers him his how however i if in into is it its just many
may me might mine more most much must my neither no none nor not now of off on once one only or
other our out over own please same shall she should since so some such than that the their them
then there therefore these they this those through thus to too under unless until up us very was
we were what when where whether which while who whose why will with would yes yet you your yours
"""
FUNCTION_WORDS = frozenset(_WORDS.split())
