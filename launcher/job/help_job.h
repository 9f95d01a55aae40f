// The keys of a job, explained: for the terminal, as docs/job.md, as JSON Schema for editors. All
// of it comes from the descriptions in launcher/job/tables.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "launcher/job/field.h"

namespace thimble::job {

/// What `thimble help job[.table]` prints. `topic` is "" (the tables and the top-level keys), a
/// table ("optimizer", "data.train") or a key ("optimizer.lr"). Throws UserError for anything else,
/// naming what is near.
std::string job_help_text(std::string_view topic);

/// The tables of a job, dotted: "model", "model.rope_scaling", "data", "data.train"...
std::vector<std::string> all_job_tables();

/// What `thimble help job.TABLE` prints for the keys of a table.
std::string keys_help(const TableVisit& visit);

/// docs/job.md.
std::string job_markdown();

/// JSON Schema of any tables.
std::string tables_schema(const TableVisit& visit);

/// docs/job.schema.json: JSON Schema, draft 7.
std::string job_schema();

}  // namespace thimble::job
