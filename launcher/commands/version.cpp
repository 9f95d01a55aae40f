#include "launcher/commands/version.h"

#include <H5public.h>
#include <fmt/core.h>

#include <nlohmann/json.hpp>
#include <oneapi/dnnl/dnnl.hpp>

#include "core/ops/kernel_table.h"

namespace thimble {

std::string thimble_version() {
  return THIMBLE_VERSION;
}

std::string build_commit() {
  return THIMBLE_COMMIT;
}

void print_version(bool json) {
  const dnnl_version_t* dnnl = dnnl_version();
  const std::string onednn = fmt::format("{}.{}.{}", dnnl->major, dnnl->minor, dnnl->patch);
  if (json) {
    const nlohmann::ordered_json out{{"version", thimble_version()},
                                     {"commit", build_commit()},
                                     {"build_type", THIMBLE_BUILD_TYPE},
                                     {"compiler", __VERSION__},
                                     {"isa", cpu_isa()},
                                     {"onednn", onednn},
                                     {"hdf5", H5_VERS_INFO},
                                     {"cuda", false}};
    fmt::print("{}\n", out.dump());
    return;
  }
  fmt::print("thimble {} ({}), {}, {}, oneDNN {}, {}\n", thimble_version(), build_commit(),
             THIMBLE_BUILD_TYPE, cpu_isa(), onednn, H5_VERS_INFO);
}

}  // namespace thimble
