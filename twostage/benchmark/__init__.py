"""What a system costs: steps timed in turns, memory of each, ratios that hold on other machines."""
