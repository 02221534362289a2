"""Which files are inputs, are they what they should be, and what is in their branches?"""
