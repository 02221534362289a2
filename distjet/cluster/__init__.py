"""The only room that knows Ray and Dask."""
