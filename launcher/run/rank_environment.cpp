#include "launcher/run/rank_environment.h"

#include <array>
#include <charconv>
#include <cstdlib>
#include <vector>

#include "core/base/error.h"
#include "core/base/text.h"

namespace thimble {
namespace {

// The variables in which one launcher gives rank, ranks, local rank and local ranks.
struct Names {
  const char *source, *rank, *ranks, *local_rank, *local_ranks;
};
constexpr std::array kLaunchers{
    Names{"Open MPI", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK",
          "OMPI_COMM_WORLD_LOCAL_SIZE"},
    Names{"PMI", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"},
};

std::optional<int> number(const Variables& variables, const char* name, int least) {
  const std::optional<std::string> text = variables(name);
  if (!text) return std::nullopt;
  int value = 0;
  const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), value);
  if (error != std::errc() || end != text->data() + text->size() || value < least) {
    throw_user("{}='{}' in the environment: allowed a number from {}", name, printable(*text),
               least);
  }
  return value;
}

}  // namespace

Variables process_variables() {
  return [](const char* name) -> std::optional<std::string> {
    const char* value = std::getenv(name);
    return value == nullptr ? std::nullopt : std::optional<std::string>(value);
  };
}

std::optional<RankEnvironment> rank_environment(const Variables& variables) {
  std::vector<RankEnvironment> found;
  for (const Names& names : kLaunchers) {
    const auto rank = number(variables, names.rank, 0), ranks = number(variables, names.ranks, 1);
    if (!rank || !ranks) continue;
    if (*rank >= *ranks) throw_user("{}={} but {}={}", names.rank, *rank, names.ranks, *ranks);
    found.push_back({.rank = *rank,
                     .ranks = *ranks,
                     .local_rank = number(variables, names.local_rank, 0).value_or(0),
                     .local_ranks = number(variables, names.local_ranks, 1).value_or(1),
                     .source = names.source});
  }
  for (const RankEnvironment& other : found) {
    if (other.ranks != found.front().ranks) {
      throw_user("the number of ranks is {} by {} but {} by {}", found.front().ranks,
                 found.front().source, other.ranks, other.source);
    }
  }
  if (!found.empty()) return found.front();
  const auto tasks = number(variables, "SLURM_STEP_NUM_TASKS", 1);
  if (tasks && *tasks > 1) {
    throw_user(
        "SLURM_STEP_NUM_TASKS={} but no MPI connects the processes: start them with srun "
        "--mpi=pmix (or pmi2), "
        "or with mpirun",
        *tasks);
  }
  return std::nullopt;
}

}  // namespace thimble
