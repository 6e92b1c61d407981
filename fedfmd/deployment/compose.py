"""The compose file: a text for any number of clients, valid for Compose v2 and for docker-compose 1.29.

Hence no ``version``, no ``name``, nothing newer than the specification of 2021. Each client is a service of
its own, since it has its own key, images and limits; ``--scale`` would share them. The top-level
``docker-compose.yml`` is this text for four clients.
"""

HEAD = """\
# Written by fedfmd.deployment.compose; `fedfmd deploy init` writes one for another number of clients.
# Settings come from the environment or an .env file; see docs/deployment.md.
x-fedfmd: &fedfmd
  image: ${FEDFMD_IMAGE:-fedfmd:local}
  user: "${FEDFMD_USER:-10001:10001}"
  init: true
  read_only: true
  tmpfs:
    - /tmp:size=256m,mode=1777
  cap_drop: [ALL]
  security_opt: ["no-new-privileges:true"]
  pids_limit: 1024  # no variable: some Compose versions take its text for no number
  logging:
    driver: json-file
    options: {max-size: 10m, max-file: "3"}

x-client: &client
  <<: *fedfmd
  networks: [clients]
  environment:
    OMP_NUM_THREADS: "1"
  depends_on:
    register:
      condition: service_completed_successfully
    gate:
      condition: service_healthy
  healthcheck:
    test: ["CMD", "python", "-S", "/opt/fedfmd/healthcheck.py", "http://127.0.0.1:9094/health"]
    interval: 15s
    timeout: 10s
    retries: 4
    start_period: 60s
  restart: ${CLIENT_RESTART:-unless-stopped}

services:
  # The SuperLink, and the ServerApp as a process beside it. Its port takes runs and keys from whoever reaches
  # it: only what is in the network "inside" does, and no client is.
  superlink:
    <<: *fedfmd
    networks: [inside]
    build:
      context: ${FEDFMD_DEPLOYMENT:-./deploy}/image
      network: ${BUILD_NETWORK:-default}
      args:
        BASE_IMAGE: ${BASE_IMAGE:-python:3.11-slim}
        PIP_NO_INDEX: ${PIP_NO_INDEX:-}
        TORCH_INDEX: ${TORCH_INDEX-https://download.pytorch.org/whl/cpu}
    command:
      - flower-superlink
      - --host=0.0.0.0
      - --port=8000
      - --ssl-ca-certfile=/keys/ca.crt
      - --ssl-certfile=/keys/server.crt
      - --ssl-keyfile=/keys/server.key
      - --enable-supernode-auth
      - --database=/state/superlink.db
      - --disable-runtime-dependency-installation
    environment:
      FEDFMD_CACHE: /tmp/cache
    volumes:
      - ${FEDFMD_DEPLOYMENT:-./deploy}/keys/server:/keys:ro
      - ${FEDFMD_DEPLOYMENT:-./deploy}/data/server:/data:ro
      - ${FEDFMD_DEPLOYMENT:-./deploy}/experiment.toml:/deployment/experiment.toml:ro
      - state:/state
      - results:/results
    mem_limit: ${SUPERLINK_MEMORY:-2g}
    cpus: ${SUPERLINK_CPUS:-1.0}
    healthcheck:
      test: [CMD, python, -S, /opt/fedfmd/healthcheck.py, "https://127.0.0.1:8000/health", /keys/ca.crt]
      interval: 5s
      timeout: 10s
      retries: 10
      start_period: 30s
    restart: unless-stopped

  # The one door for clients: passes on what a SuperNode asks, and nothing else.
  gate:
    <<: *fedfmd
    networks: [inside, clients]
    command:
      - python
      - -m
      - fedfmd
      - deploy
      - gate
      - --listen=0.0.0.0:8000
      - --to=superlink:8000
      - --authority=/keys/inside.crt
      - --certificate=/keys/gate.crt
      - --key=/keys/gate.key
    volumes:
      - ${FEDFMD_DEPLOYMENT:-./deploy}/keys/gate:/keys:ro
    depends_on:
      superlink:
        condition: service_healthy
    mem_limit: 256m
    healthcheck:
      test: [CMD, python, -S, /opt/fedfmd/healthcheck.py, "https://127.0.0.1:8000/health", /keys/ca.crt]
      interval: 5s
      timeout: 10s
      retries: 10
      start_period: 30s
    restart: unless-stopped

  # At every start: tells the SuperLink whose public keys are there, and whose no more.
  register:
    <<: *fedfmd
    networks: [inside]
    entrypoint: ["sh", "/opt/fedfmd/cli.sh"]
    command: ["python", "-m", "fedfmd.deployment.registration", "/keys", "/state/nodes.json"]
    volumes:
      - ${FEDFMD_DEPLOYMENT:-./deploy}/keys/public:/keys:ro
      - state:/state
    depends_on:
      superlink:
        condition: service_healthy

  # docker compose run --rm cli flwr run /opt/fedfmd/app --run-config '...'
  cli:
    <<: *fedfmd
    networks: [inside]
    profiles: ["cli"]
    entrypoint: ["sh", "/opt/fedfmd/cli.sh"]
    command: ["flwr", "supernode", "list"]
    volumes:
      - ${FEDFMD_DEPLOYMENT:-./deploy}/keys/public:/keys:ro
      - results:/results:ro
"""

CLIENT = """
  client-{client}:
    <<: *client
    command:
      - python
      - -m
      - fedfmd
      - deploy
      - node
      - --superlink=${{SUPERLINK_ADDRESS:-gate:8000}}
      - --root-certificates=/keys/ca.crt
      - --auth-supernode-private-key=/keys/node.key
      - --node-config=client-id={client} data="/data/pictures.safetensors" state="/state"
    volumes:
      - ${{FEDFMD_DEPLOYMENT:-./deploy}}/keys/client-{client}:/keys:ro
      - ${{FEDFMD_DEPLOYMENT:-./deploy}}/data/client-{client}:/data:ro
      - client-{client}:/state
    cpus: ${{CLIENT{client}_CPUS:-{cpus}}}
    mem_limit: ${{CLIENT{client}_MEMORY:-{memory}}}
    memswap_limit: ${{CLIENT{client}_MEMORY:-{memory}}}
"""

NETWORKS = """
networks:
  inside:
    internal: true
  clients:
    internal: true
"""
GATE = """  gate:
    <<: *fedfmd
    networks: [inside, clients]
"""
PUBLISHED_GATE = """  gate:
    <<: *fedfmd
    networks: [inside, clients, public]
    ports: ["${GATE_PORT:-8000}:8000"]
"""
"""Clients on other machines come to this port of the server's, the only one."""
VOLUMES = """
volumes:
  state:
  results:
"""

LIMITS = (("0.75", "1g"), ("0.5", "768m"), ("0.25", "768m"), ("0.25", "640m"))
"""What a client gets where the environment says nothing."""


def compose_text(clients: int = 4, *, published: bool = False) -> str:
    """Give the compose file for that many clients in containers; ``published`` lets others come as well."""
    parts = [HEAD.replace(GATE, PUBLISHED_GATE) if published else HEAD]
    for client in range(clients):
        cpus, memory = LIMITS[min(client, len(LIMITS) - 1)]
        parts.append(CLIENT.format(client=client, cpus=cpus, memory=memory))
    networks = NETWORKS + "  public: {}\n" if published else NETWORKS
    return "".join(parts) + networks + VOLUMES + "".join(f"  client-{c}:\n" for c in range(clients))
