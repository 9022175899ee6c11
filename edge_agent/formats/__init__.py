"""Pure data formats that the factory and the appliance both read and write."""
