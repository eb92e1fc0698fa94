"""What can be done beside choosing a number format: rounding by other rules than to the nearest value."""
