"""What the product is about, as plain values and pure decisions: no I/O, no clock, no driver.

Of other packages it imports `runnerlib.spec.rules` alone, which is as pure.
"""
