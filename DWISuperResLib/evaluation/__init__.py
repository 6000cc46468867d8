"""What a super-resolved scan is worth."""
