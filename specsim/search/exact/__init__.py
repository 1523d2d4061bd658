"""Problems solved exactly, as plain functions over arrays that know no hardware and no model."""
