"""Region features of a frozen detector: taken out, rebalanced, its classifier refitted to them."""
