"""Measuring edits the way the field does: CounterFact and zsRE, before and after."""
