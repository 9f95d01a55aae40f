// The hosts of a launch: what a hostfile promises, and which of them answer.
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <vector>

namespace thimble {

struct HostSlots {
  std::string host;
  int slots = 1;
  bool operator==(const HostSlots&) const = default;
};

/// "name [slots=N]" lines; '#' begins a comment; a host named twice has the slots of both lines (as
/// PBS writes them). Throws UserError naming file and line.
std::vector<HostSlots> read_hostfile(const std::filesystem::path& file);
std::string hostfile_text(std::span<const HostSlots> hosts);
int total_slots(std::span<const HostSlots> hosts);

/// Why a host does not answer, or empty: runs `true` there by the agent that mpirun would use
/// (OMPI_MCA_plm_rsh_agent, else ssh), all hosts at once, for at most `seconds`. This machine
/// always answers.
std::vector<std::string> host_complaints(std::span<const HostSlots> hosts, double seconds = 20);

}  // namespace thimble
