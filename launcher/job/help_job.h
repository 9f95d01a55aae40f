// The keys of a job, explained: for the terminal, as docs/job.md, as JSON Schema for editors. All
// from fields.h.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace thimble::job {

/// What `thimble help job[.table]` prints. `topic` is "" (the tables and the top-level keys), a
/// table
/// ("optimizer", "data.train") or a key ("optimizer.lr"). Throws UserError for anything else,
/// naming what is near.
std::string job_help_text(std::string_view topic);

/// The tables of a job, dotted: "model", "model.rope_scaling", "data", "data.train"...
std::vector<std::string> all_job_tables();

/// docs/job.md.
std::string job_markdown();

/// docs/job.schema.json: JSON Schema, draft 7.
std::string job_schema();

}  // namespace thimble::job
