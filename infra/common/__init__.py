"""What every cloud shares, for `infra/platformctl`."""
