"""Pure data formats that the toolkit and the appliance both read and write."""
