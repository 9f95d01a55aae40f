// What this machine reaches in matmuls and on the job's disks: measured, or kept from a measurement
// of the last day.
#pragma once

#include "core/base/dtype.h"
#include "core/device/device.h"
#include "launcher/job/job_config.h"
#include "launcher/run/kept_rates.h"
#include "plan/rates.h"

namespace thimble {

/// measure_matmul_rate(), kept for a CPU: FLOP/s.
KeptRate matmul_rate_here(DeviceKind device, DType dtype);

/// What the job's disks read and write at once, together, in bytes per second; 0, with a warning,
/// if one cannot be measured. As old as the oldest of them.
KeptRate disk_rate_here(const job::JobConfig& job);

/// What a disk reads and writes at once, in bytes per second, measured: a second of work.
double short_disk_rate(const std::filesystem::path& directory);

}  // namespace thimble
