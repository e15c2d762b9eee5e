"""`mdmf report`: the page, its galleries, its pictures and its figures."""
