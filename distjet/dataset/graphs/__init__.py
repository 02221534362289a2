"""What connects the constituents of a jet, and how is it stored?"""
