"""Writing to PostgreSQL: schema by migrations, bulk upserts, watermarks, import and export. No Beam."""
