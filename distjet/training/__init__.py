"""Training in plain torch: it takes a RankInfo and a reporter, and knows no cluster."""
