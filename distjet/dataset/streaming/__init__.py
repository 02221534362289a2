"""How does a dataset become batches of tensors, for any number of ranks?"""
