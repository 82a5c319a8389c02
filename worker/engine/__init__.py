"""The generation engine: one step loop over one model, for rows of many versions at once."""
