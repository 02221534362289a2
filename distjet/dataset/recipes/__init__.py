"""What does a recipe mean: which branches become which columns?"""
