// The nodes of a launch: what a hostfile promises, and which of them answer.
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <vector>

namespace thimble {

struct NodeSlots {
  std::string node;
  int slots = 1;
  bool operator==(const NodeSlots&) const = default;
};

/// "name [slots=N]" lines; '#' begins a comment; a node named twice has the slots of both lines (as
/// PBS writes them). Throws UserError naming file and line.
std::vector<NodeSlots> read_hostfile(const std::filesystem::path& file);
std::string hostfile_text(std::span<const NodeSlots> nodes);
int total_slots(std::span<const NodeSlots> nodes);

/// Why a node does not answer, or empty: runs `true` there by the agent that mpirun would use
/// (OMPI_MCA_plm_rsh_agent, else ssh), all nodes at once, for at most `seconds`. This machine
/// always answers.
std::vector<std::string> node_complaints(std::span<const NodeSlots> nodes, double seconds = 20);

}  // namespace thimble
