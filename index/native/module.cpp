// Python bindings of index/native; _native.pyi describes them. No logic here.
#include <nanobind/nanobind.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstring>
#include <memory>
#include <optional>

#include "index/native/error.hpp"
#include "index/native/keys.hpp"
#include "index/native/match.hpp"
#include "index/native/module_budget.hpp"
#include "index/native/module_choosing.hpp"
#include "index/native/module_history.hpp"
#include "index/native/bind_arrays.hpp"
#include "index/native/lane_masks.hpp"
#include "index/native/module_lanes.hpp"
#include "index/native/module_compact.hpp"
#include "index/native/module_content.hpp"
#include "index/native/module_remote.hpp"
#include "index/native/module_snapshot.hpp"
#include "index/native/reader.hpp"
#include "index/native/steady.hpp"
#include "index/native/table.hpp"

namespace nb = nanobind;
using namespace kvatlas;

namespace {

const char* class_of(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::input: return "InputError";
    case ErrorKind::decode: return "DecodeError";
    case ErrorKind::table_file: return "TableFileError";
    case ErrorKind::stale: return "StaleTableError";
    case ErrorKind::checkpoint: return "CheckpointError";
    case ErrorKind::store: return "StoreError";
    case ErrorKind::dump: return "DumpError";
  }
  return "KvatlasError";
}

// UTF-8 of a str; lone surrogates pass as the bytes they stand for (PEP 383).
std::string text(nb::handle value, const char* name) {
  if (!PyUnicode_Check(value.ptr()))
    throw Error(ErrorKind::input, std::string(name) + ": expected a str, got " + Py_TYPE(value.ptr())->tp_name);
  nb::object bytes = nb::steal(PyUnicode_AsEncodedString(value.ptr(), "utf-8", "surrogateescape"));
  if (!bytes.is_valid()) {
    PyErr_Clear();
    throw Error(ErrorKind::input, std::string(name) + ": expected text that UTF-8 can encode");
  }
  return {PyBytes_AS_STRING(bytes.ptr()), static_cast<size_t>(PyBytes_GET_SIZE(bytes.ptr()))};
}

std::vector<Feature> features_of(nb::handle features) {
  std::vector<Feature> out;
  if (features.is_none()) return out;
  constexpr int64_t kMost = int64_t{1} << 48;
  size_t at = 0;
  for (nb::handle item : features) {
    const std::string where = "features[" + std::to_string(at++) + "]";
    nb::object parts = nb::steal(PySequence_Check(item.ptr()) && !PyUnicode_Check(item.ptr()) ? PySequence_Tuple(item.ptr()) : nullptr);
    int64_t offset = 0, length = 0;
    if (!parts.is_valid() || nb::len(parts) != 3 || !nb::try_cast(parts[1], offset) || !nb::try_cast(parts[2], length)) {
      PyErr_Clear();
      throw Error(ErrorKind::input, where + ": expected (identifier, offset, length)");
    }
    if (offset < 0 || offset > kMost || length < 1 || length > kMost)
      throw Error(ErrorKind::input, where + ": expected an offset of at least 0 and a length of at least 1, got " + std::to_string(offset) + " and " + std::to_string(length));
    out.push_back({text(parts[0], (where + "[0]").c_str()), offset, length});
  }
  return out;
}

Keyspace fold64(nb::bytes secrets, uint32_t block_size) {
  std::array<uint64_t, 16> words{};
  if (secrets.size() != sizeof words) throw Error(ErrorKind::input, "secrets: expected 128 bytes, got " + std::to_string(secrets.size()));
  std::memcpy(words.data(), secrets.data(), sizeof words);
  return Keyspace(words, block_size);
}

constexpr size_t kTokensLocked = 32768;  // ten microseconds of fold64

nb::object keys(const Keyspace& keyspace, nb::handle token_ids, nb::handle lora, nb::handle cache_salt,
                nb::handle features, nb::handle parent) {
  const TokenSpan tokens(token_ids);
  const std::vector<Feature> items = features_of(features);
  uint64_t before = 0;
  const bool continues = !parent.is_none();
  if (continues && !nb::try_cast(parent, before)) throw Error(ErrorKind::input, "parent: expected a block key from 0 to 2^64-1");
  const std::string salt = cache_salt.is_none() || continues ? "" : text(cache_salt, "cache_salt");
  const bool has_salt = !salt.empty();
  if (has_salt && keyspace.algorithm() == Keyspace::Algorithm::fnv64a_cbor)
    throw Error(ErrorKind::input, "cache_salt: fnv64a_cbor keys have no place for it; use fold64");
  if (!continues) before = keyspace.root(lora.is_none() ? "" : text(lora, "lora"));
  const size_t n_blocks = tokens.size() / keyspace.block_size();
  const NewArray out = new_array(Dtype::uint64, n_blocks);
  {
    // Whoever lets go of the GIL may wait for it longer than a short prompt takes.
    std::optional<nb::gil_scoped_release> unlocked;
    if (tokens.size() > kTokensLocked || keyspace.algorithm() != Keyspace::Algorithm::fold64) unlocked.emplace();
    keyspace.chain(before, tokens.data(), n_blocks, items, salt, has_salt, static_cast<uint64_t*>(out.data));
  }
  return out.array;
}

uint64_t apply(Table& table, nb::handle delta) {
  const ByteSpan span(delta, "delta");
  nb::gil_scoped_release unlocked;
  return table.apply(span.data(), span.size());
}

uint64_t replace(Table& table, const std::vector<uint32_t>& lanes, nb::handle delta) {
  const ByteSpan span(delta, "delta");
  nb::gil_scoped_release unlocked;
  return table.replace(lanes, span.data(), span.size());
}

void touch(Table& table, nb::handle segment_keys) {
  const KeySpan span(segment_keys, "segment_keys");
  table.touch(span.data(), span.size());
}

nb::list lookup(Source& source, nb::handle keys) {
  const KeySpan span(keys, "keys");
  struct Holder {
    uint32_t lane, tiers;
  };
  std::vector<std::vector<Holder>> found(span.size());
  {
    nb::gil_scoped_release unlocked;
    const std::vector<Pin> pins{source.pin()};
    const Generation& generation = *pins[0];
    look_steadily(pins, [&] {
      for (size_t i = 0; i < span.size(); ++i) {
        found[i].clear();
        const SetView set = generation.set(word_set(generation.find(span.data()[i])));
        for (uint32_t e = 0; e < set.count; ++e) {
          const uint32_t word = generation.lane_word(set.elements[e] >> 8);
          if (const uint32_t mask = live_mask(word, set.elements[e])) found[i].push_back({word & 0xffff, mask});
        }
      }
    });
  }
  nb::list out;
  for (const std::vector<Holder>& holders : found) {
    nb::list of_key;
    for (const Holder& holder : holders) of_key.append(nb::make_tuple(holder.lane, holder.tiers));
    out.append(of_key);
  }
  return out;
}

nb::dict statistics(Table& table) {
  const TableStatistics s = table.statistics();
  nb::dict out;
  out["entries"] = s.entries;
  out["slots"] = s.slots;
  out["slots_used"] = s.slots_used;
  out["load_factor"] = static_cast<double>(s.slots_used) / static_cast<double>(s.slots);
  out["sets"] = s.sets;
  out["set_bytes"] = s.set_bytes;
  out["bytes"] = s.bytes;
  out["bytes_max"] = s.bytes_max;
  out["records"] = s.records;
  out["adds"] = s.adds;
  out["removes"] = s.removes;
  out["removes_missing"] = s.removes_missing;
  out["dropped_entries"] = s.dropped_entries;
  out["dropped_unused"] = s.dropped_unused;
  out["dropped_adds"] = s.dropped_adds;
  out["heat_buckets"] = s.heat_buckets;
  out["lanes"] = s.lanes;
  out["generation"] = s.generation;
  out["rebuilds"] = s.rebuilds;
  out["rebuild_failures"] = s.rebuild_failures;
  out["replaces"] = s.replaces;
  out["snapshot_bytes"] = s.snapshot_bytes;
  out["incarnation"] = s.incarnation;
  return out;
}

// The shards of an index and the roster, as match() wants them.
class Index {
 public:
  Index(std::vector<std::shared_ptr<Source>> shards, std::shared_ptr<Roster> roster)
      : shards_(std::move(shards)), roster_(std::move(roster)) {
    if (shards_.empty()) throw Error(ErrorKind::input, "shards: expected at least one");
  }

  nb::tuple match_keys(nb::handle keys, nb::handle allowed, uint64_t prompt_tokens, uint32_t block_size_tokens) const {
    const KeySpan span(keys, "keys");
    if ((prompt_tokens == 0) != (block_size_tokens == 0))
      throw Error(ErrorKind::input, "block_size_tokens: expected one with prompt_tokens, and none without, got " + std::to_string(block_size_tokens));
    if (prompt_tokens >= uint64_t{1} << 32 || (prompt_tokens > 0 && span.size() > prompt_tokens / block_size_tokens))
      throw Error(ErrorKind::input, "prompt_tokens: expected those of " + std::to_string(span.size()) + " blocks at least and below 2^32, got " + std::to_string(prompt_tokens));
    std::optional<ByteSpan> mask;
    if (!allowed.is_none()) mask.emplace(allowed, "allowed");
    return run({span.data(), span.size(), mask ? mask->data() : nullptr, mask ? mask->size() : 0, prompt_tokens, block_size_tokens});
  }

  uint32_t shard_of_segment(uint64_t segment_key) const { return shard_of(segment_key, static_cast<uint32_t>(shards_.size())); }

 private:
  static nb::tuple rows(const std::vector<uint32_t>& numbers) {
    nb::list out;
    for (uint32_t number : numbers) out.append(number);
    return nb::tuple(out);
  }

  nb::tuple run(const Question& question) const {
    thread_local Matches matches;  // no allocation per match
    {
      nb::gil_scoped_release unlocked;
      match(question, shards_, *roster_->view(), matches);
    }
    const size_t n = matches.n;
    const NewArray workers = new_array(Dtype::uint32, n), blocks = new_array(Dtype::uint32, n), tiers = new_array(Dtype::uint32, n, kTierColumns);
    if (n > 0) {
      std::memcpy(workers.data, matches.workers.data(), n * sizeof(uint32_t));
      std::memcpy(blocks.data, matches.blocks.data(), n * sizeof(uint32_t));
      std::memcpy(tiers.data, matches.tier_blocks.data(), n * kTierColumns * sizeof(uint32_t));
    }
    return nb::make_tuple(workers.array, blocks.array, tiers.array, matches.n_probed, matches.partial_rows.empty() ? nb::tuple() : rows(matches.partial_rows));
  }

  std::vector<std::shared_ptr<Source>> shards_;
  std::shared_ptr<Roster> roster_;
};

uint32_t lane_of(uint64_t lane) {
  if (lane >= kLanesMax) throw Error(ErrorKind::input, "lanes: expected numbers below 65535, got " + std::to_string(lane));
  return static_cast<uint32_t>(lane);
}

// A lane, or (lane, kind, window_tokens, block_size_tokens, is_draft).
Group group_of(nb::handle item, size_t at) {
  const std::string where = "groups[" + std::to_string(at) + "]";
  uint64_t lane = 0;
  if (PyLong_Check(item.ptr()) && nb::try_cast(item, lane)) return {.lane = lane_of(lane)};
  uint32_t kind = 0;
  Group group;
  if (!PyTuple_Check(item.ptr()) || nb::len(item) != 5 || !nb::try_cast(item[0], lane) || !nb::try_cast(item[1], kind) ||
      !nb::try_cast(item[2], group.window_tokens) || !nb::try_cast(item[3], group.block_size_tokens) || !nb::try_cast(item[4], group.is_draft))
    throw Error(ErrorKind::input, where + ": expected a lane or a Group, got " + nb::cast<std::string>(nb::repr(item)));
  if (kind >= kGroupKinds) throw Error(ErrorKind::input, where + ".kind: expected 0 to 4, got " + std::to_string(kind));
  group.lane = lane_of(lane);
  group.kind = static_cast<GroupKind>(kind);
  return group;
}

void set_worker(Roster& roster, uint32_t number, nb::sequence groups, const std::vector<uint32_t>& stores, uint32_t chunk_blocks,
                bool recomputes_last_block, bool drops_matched_block) {
  if (chunk_blocks == 0 || chunk_blocks > 1u << 20)
    throw Error(ErrorKind::input, "chunk_blocks: expected 1 to 1048576, got " + std::to_string(chunk_blocks));
  Worker worker{.number = number, .groups = {}, .stores = {}, .chunk_blocks = chunk_blocks,
                .recomputes_last_block = recomputes_last_block, .drops_matched_block = drops_matched_block};
  for (nb::handle item : groups) worker.groups.push_back(group_of(item, worker.groups.size()));
  if (worker.groups.size() > kGroupsMax) throw Error(ErrorKind::input, "groups: expected at most 64, got " + std::to_string(worker.groups.size()));
  for (uint32_t store : stores) worker.stores.push_back(lane_of(store));
  roster.set(std::move(worker));
}

}  // namespace

NB_MODULE(_native, m) {
  // Threads that still wait when the interpreter ends hold what they wait for: no leak of a program.
  nb::set_leak_warnings(false);
  nb::register_exception_translator([](const std::exception_ptr& p, void*) {
    try {
      std::rethrow_exception(p);
    } catch (const Error& e) {
      nb::object type = nb::module_::import_("kvatlas.index.errors").attr(class_of(e.kind()));
      PyErr_SetString(type.ptr(), e.what());
    }
  });

  nb::class_<Keyspace>(m, "Keyspace")
      .def_static("fold64", &fold64, nb::arg("secrets"), nb::arg("block_size"))
      .def_static("fnv64a_cbor",
                  [](nb::str hash_seed, nb::str model, uint32_t block_size) {
                    return Keyspace(text(hash_seed, "hash_seed"), text(model, "model"), block_size);
                  },
                  nb::arg("hash_seed"), nb::arg("model"), nb::arg("block_size"))
      .def_prop_ro("block_size", &Keyspace::block_size)
      .def("root", [](const Keyspace& k, nb::handle lora) { return k.root(lora.is_none() ? "" : text(lora, "lora")); },
           nb::arg("lora").none() = nb::none())
      .def("keys", &keys, nb::arg("token_ids").none(), nb::arg("lora").none() = nb::none(), nb::arg("cache_salt").none() = nb::none(),
           nb::arg("features").none() = nb::none(), nb::arg("parent").none() = nb::none());

  nb::class_<Source>(m, "Source").def("lookup", &lookup, nb::arg("keys"));

  nb::class_<Table, Source>(m, "Table")
      .def("__init__",
           [](Table* self, uint64_t budget_bytes, std::optional<std::string> path) { new (self) Table(budget_bytes, path.value_or("")); },
           nb::arg("budget_bytes") = uint64_t{1} << 30, nb::arg("path") = nb::none())
      .def("apply", &apply, nb::arg("delta").none())
      .def("replace", &replace, nb::arg("lanes"), nb::arg("delta").none())
      .def("touch", &touch, nb::arg("segment_keys").none())
      .def("set_whole", &Table::set_whole, nb::arg("whole"))
      .def_prop_ro("whole", &Table::whole)
      .def_prop_ro("path", &Table::path)
      .def("heartbeat", &Table::heartbeat)
      .def("statistics", &statistics)
      .def("close", &Table::close);

  nb::class_<TableReader, Source>(m, "TableReader")
      .def("__init__",
           [](TableReader* self, const std::string& path, int64_t age_ms_max) {
             if (age_ms_max < 1) throw Error(ErrorKind::input, "age_ms_max: expected at least 1, got " + std::to_string(age_ms_max));
             new (self) TableReader(path, static_cast<uint64_t>(age_ms_max));
           },
           nb::arg("path"), nb::arg("age_ms_max") = 5000)
      .def("take_touched", [](TableReader& reader) { return array_of(reader.take_touched()); })
      .def_prop_ro("whole", &TableReader::whole)
      .def_prop_ro("incarnation", &TableReader::incarnation)
      .def_prop_ro("age_ms", &TableReader::age_ms);

  nb::class_<Roster>(m, "Roster")
      .def(nb::init<>())
      .def("set", &set_worker, nb::arg("worker"), nb::arg("groups"), nb::arg("stores"), nb::arg("chunk_blocks") = 1,
           nb::arg("recomputes_last_block") = true, nb::arg("drops_matched_block") = false);

  nb::class_<Index>(m, "Index")
      .def(nb::init<std::vector<std::shared_ptr<Source>>, std::shared_ptr<Roster>>(), nb::arg("shards"), nb::arg("roster"))
      .def("match", &Index::match_keys, nb::arg("keys").none(), nb::arg("allowed").none() = nb::none(),
           nb::arg("prompt_tokens") = 0, nb::arg("block_size_tokens") = 0)
      .def("shard_of", &Index::shard_of_segment, nb::arg("segment_key"));

  bind_budget(m);
  bind_remote(m);
  bind_compact(m);
  bind_history(m);
  bind_choosing(m);
  bind_lanes(m);
  bind_content(m);
  bind_snapshot(m);
  m.def("shard_of", &shard_of, nb::arg("segment_key"), nb::arg("n_shards"));
  m.def("segment_tag", &segment_tag, nb::arg("segment_key"));
  m.def("segment_key_of", &segment_key_of, nb::arg("tag"));
  m.attr("SEGMENT_BLOCKS") = kSegmentBlocks;
}
