#include "launcher/commands/bench_disk.h"

#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <nlohmann/json.hpp>

#include "launcher/commands/command.h"
#include "launcher/job/sizes.h"
#include "offload/disk_speed.h"

namespace thimble {
namespace {

struct DiskBench {
  std::string directory = ".", size = "1GiB";
  double seconds = 20;
  bool json = false;
};

nlohmann::ordered_json rates_object(const DiskRates& rates) {
  return {{"queue_depth", rates.queue_depth},
          {"request_bytes", rates.request_bytes},
          {"read_mb_per_s", rates.read / 1e6},
          {"write_mb_per_s", rates.write / 1e6},
          {"mixed_mb_per_s", rates.mixed / 1e6}};
}

void print_disk_json(const DiskSpeed& speed, const DiskBench& a, const std::string& warning) {
  nlohmann::ordered_json out{{"directory", a.directory},
                             {"file_system", speed.file_system.name},
                             {"size_bytes", speed.size_bytes},
                             {"direct", speed.direct},
                             {"file_engine", speed.engine},
                             {"registered", speed.why_unregistered.empty()},
                             {"why_unregistered", speed.why_unregistered},
                             {"rates", nlohmann::ordered_json::array()},
                             {"best", rates_object(speed.best)},
                             {"warnings", nlohmann::ordered_json::array()}};
  for (const DiskRates& rates : speed.rates) out["rates"].push_back(rates_object(rates));
  if (!warning.empty()) out["warnings"].push_back(warning);
  fmt::print("{}\n", out.dump());
}

void print_disk_table(const DiskSpeed& speed, const DiskBench& a, const std::string& warning) {
  fmt::print("{} on {}, two files of {}\n", a.directory, speed.file_system.name,
             format_bytes(speed.size_bytes / 2));
  fmt::print("direct      {}\n",
             speed.direct ? "yes, past the page cache"
                          : "no, through the page cache: its file system knows no other way");
  fmt::print("engine      {}\n", speed.engine);
  fmt::print("registered  {}\n\n", speed.why_unregistered.empty()
                                       ? "yes, buffers are pinned once"
                                       : "no: " + speed.why_unregistered);
  fmt::print("{:>5} {:>9} {:>11} {:>11} {:>11}\n", "queue", "request", "read MB/s", "write MB/s",
             "mixed MB/s");
  for (const DiskRates& rates : speed.rates) {
    fmt::print("{:>5} {:>9} {:>11.0f} {:>11.0f} {:>11.0f}\n", rates.queue_depth,
               format_bytes(rates.request_bytes), rates.read / 1e6, rates.write / 1e6,
               rates.mixed / 1e6);
  }
  fmt::print("best mixed: {} requests of {} under way, {:.0f} MB/s read and written together\n",
             speed.best.queue_depth, format_bytes(speed.best.request_bytes),
             speed.best.mixed / 1e6);
  if (!warning.empty()) fmt::print("warning: {}\n", warning);
}

void bench_disk(const DiskBench& a) {
  const std::optional<job::ByteSize> size = job::parse_size(a.size);
  if (!size) throw_user("--size '{}': a size as 512MiB or 1GiB is needed", a.size);
  const DiskSpeed speed = measure_disk_speed(
      {.directory = a.directory, .size_bytes = size->bytes, .seconds = a.seconds});
  const std::string warning = file_system_warning(speed.file_system, a.directory);
  if (a.json) {
    print_disk_json(speed, a, warning);
  } else {
    print_disk_table(speed, a, warning);
  }
}

}  // namespace

std::string file_system_warning(const FileSystem& found, const std::filesystem::path& directory) {
  if (found.in_memory) {
    return fmt::format("{} is on {}, in memory: what is written there takes the memory of training",
                       directory.string(), found.name);
  }
  if (found.on_network) {
    return fmt::format("{} is on {}, which others may share: its speed varies with what they do",
                       directory.string(), found.name);
  }
  return {};
}

void add_bench_disk(CLI::App& bench, CommandSession& session) {
  auto a = std::make_shared<DiskBench>();
  CLI::App* disk =
      bench.add_subcommand("disk", "What a disk reads, writes and does of both at once");
  disk->add_option("--dir", a->directory, "A directory on the disk (default: this one)")
      ->check(CLI::ExistingDirectory);
  disk->add_option("--size", a->size,
                   "Taken of it meanwhile, at most half of what is free (default: 1GiB); more than "
                   "the disk's own cache measures what it can keep up");
  disk->add_option("--seconds", a->seconds, "To measure for, in all (default: 20)")
      ->check(CLI::Range(0.1, 3600.0));
  disk->add_flag("--json", a->json, "One JSON object");
  disk->footer(
      "Sequential requests past the page cache, at several queue depths and request sizes. Writes\n"
      "go over what was written before. Mixed: half of the requests read one file, half write\n"
      "another, both counted. The files have no name and go with the process.\n\n"
      "Examples:\n"
      "  thimble bench disk\n"
      "  thimble bench disk --dir /scratch --size 8GiB --seconds 60 --json");
  disk->callback([a, &session] {
    session.start();
    bench_disk(*a);
  });
}

}  // namespace thimble
