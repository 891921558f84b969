"""Float networks made int8 ones: ranges, grids, what each layer loses by them. Uses what is below it."""
