"""`mdmf review`: verdicts of people, and the CSV files that carry them."""
