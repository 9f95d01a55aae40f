// libFuzzer entry of the job reader: any bytes end in a JobConfig or a UserError. A job that was
// read must also survive being written and read again.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "core/base/error.h"
#include "launcher/job/load_job.h"
#include "launcher/job/write_job.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace thimble;
  using namespace thimble::job;
  JobConfig job;
  try {
    job = parse_job_text(std::string_view(reinterpret_cast<const char*>(data), size), "job.toml");
  } catch (const UserError&) {
    return 0;
  }
  TH_CHECK(parse_job_text(resolved_job_text(job), "job.resolved.toml") == job,
           "the resolved job differs");
  return 0;
}
